"""Scripts that prepare datasets: download, combine, make_demo. README.md describes the layouts."""
