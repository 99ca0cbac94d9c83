"""Model libraries, and the emulators built from them."""
