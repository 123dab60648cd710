"""What the doctor looks at. Each probe answers with checks; none imports more than the thing it looks at needs."""
