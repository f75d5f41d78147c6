"""From messages and templates to the exact chat string and its labelled spans."""
