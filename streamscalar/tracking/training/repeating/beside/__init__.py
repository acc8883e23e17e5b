"""What a function of the user changes beside the copy of the model that it is given, and how that is put back."""
