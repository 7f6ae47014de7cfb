"""Does a weak model rank rows as a strong one does?"""
