"""One HTML file of what a file of onepass shows: scores, mistakes, a map of the rows, findings, comparisons."""
