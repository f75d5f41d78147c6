"""What every package uses: values that are checked, files that are written whole, versions of libraries."""
