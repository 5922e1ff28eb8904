"""Programs of the lab that run without site packages, as `python -I -S`: in a guest, where each
import costs, or beside the lab; and what they share with it. Standard library alone.
"""
