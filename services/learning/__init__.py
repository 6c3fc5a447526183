"""How events become a posterior: the Learner, its fold and rules, the archive behind it, the proof that it is right."""
