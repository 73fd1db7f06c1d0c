"""From areas to pixels: records are selected, tiles planned, fetched, decoded, put in place or warped."""
