"""What a site's patients were charged: rules, the meaning of rows, the hash chain, the file."""
