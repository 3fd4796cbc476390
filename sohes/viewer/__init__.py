"""A local web page that shows masks over their photographs: static files here, data from `gallery`."""
