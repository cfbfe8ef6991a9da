"""From a finished run to a server that is proved to give the measured numbers, and to a merge of any checkpoint."""
