"""What maintainers run: it writes files of this repository, or measures what they say."""
