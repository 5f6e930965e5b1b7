"""The engine under Export Training Data For Deep Learning (tasks/export.py): from imagery and labels to finished chips.

options       the dials                          plan, parts       which windows become chips, of which part
scene         rasters on a working grid          units, crew       the work in pieces, and who does them
*_labels      what people mean by the labels     chip_writer       a chip on the disk
run           from the plan to the definition    finish, report    what is written once for all chips
append        chips that join an older export    forecast          what --dry-run says
"""
