"""The programs that maintainers run. They write files of this repository, or measure."""
