"""
The independent checker behind `fraudstream verify`: holds what is on the topics against what is
promised, and shares no line with the pipeline that wrote it but schemas, settings and errors.
"""
