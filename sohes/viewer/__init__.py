"""A local web page that shows masks over their photographs: static files here, their data from `gallery`."""
