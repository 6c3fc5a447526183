"""How events become a posterior: the fold, its rules, the archive behind it, and the proof that it is right."""
