"""The sentences that pictures are shown with: templates, captions, and how they are laid out."""
