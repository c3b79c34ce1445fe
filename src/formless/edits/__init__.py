"""What an edit is and how it is stored: adapters, weight differences, prompts."""
