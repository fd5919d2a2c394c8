"""Where pictures come from: folders, lists, data sets; their captions and masks; lists of concepts."""
