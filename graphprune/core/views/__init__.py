"""Views of an analysis for other programs and for the eye: JSON, Graphviz, GraphML, a page."""
