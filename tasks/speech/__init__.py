"""Room for the front end and synthesis from artifacts; its run-time part imports no torch. Heavy."""
