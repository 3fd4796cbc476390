"""Work cut into parts that can be stopped, resumed and spread over processes."""
