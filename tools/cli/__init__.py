"""``precast compile | inspect | verify | embed | classify | rank | generate | bench``."""
