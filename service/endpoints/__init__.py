"""The endpoints: each module here has a `router`, which the application includes."""
