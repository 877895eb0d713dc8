"""From a reference to a picture. Imports nothing: the process that decodes pictures starts here."""
