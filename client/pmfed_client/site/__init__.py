"""What people at a hospital run and decide: site.toml, policy, check, approval, keys, the audit log."""
