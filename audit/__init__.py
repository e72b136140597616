"""What the locks bring in: known vulnerabilities, a bill of materials, licences."""
