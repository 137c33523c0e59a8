"""The steps of a comparison: what is asked, which weights belong together, judging, concluding."""
