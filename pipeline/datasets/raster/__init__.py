"""Image files decoded into the pixels that viewers show: formats, colours, orientation, coordinates."""
