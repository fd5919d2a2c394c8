"""Opening pictures and making them fit: colours, masks, backgrounds, crops, shapes."""
