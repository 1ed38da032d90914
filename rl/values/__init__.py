"""Value experts (WAV 4.2): the futures that they learn from, their training, and how well they predict and rank."""
