"""The timetable: Prefect flows, and the command line. Only this room knows of Prefect."""
