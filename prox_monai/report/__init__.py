"""What a run found, as a page that a browser shows without anything else, and the pictures in it."""
