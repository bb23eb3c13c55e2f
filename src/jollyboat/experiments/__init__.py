"""Champion against challenger: how many visitors are needed, and what the outcomes say."""
