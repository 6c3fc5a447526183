"""What decides who serves a request, and follows the answer: the Router and what it is made of."""
