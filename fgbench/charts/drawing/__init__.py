"""What charts share: the comparison they draw, the style, parts of a figure, a paper's digitised curves."""
