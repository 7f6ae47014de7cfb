"""Train students on a selection and on random rows, and measure which learns more."""
