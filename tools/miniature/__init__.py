"""A miniature Kandinsky 2.2: dataset, training stages, pixel judge, scores and export."""
