"""What export.py knows of where models come from: each module makes a torch.nn.Module and its trawl.json of one source."""
