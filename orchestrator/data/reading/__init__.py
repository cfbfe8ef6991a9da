"""Files become rows with line numbers, streamed, whatever their format."""
