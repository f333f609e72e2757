"""How a report looks: its parts, charts as SVG, pictures, and the page around them."""
