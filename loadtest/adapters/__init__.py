"""Other people's load tools, taught to speak to Jouleserve; each in the tool's own environment."""
