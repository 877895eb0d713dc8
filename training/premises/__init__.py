"""Measurements of the premises of questions: in the demo's world, where the truth is known, and on questions of people.

forms.py           questions about a scene whose premises are true, or not, in many forms
fit.py             the rule for the demo matcher's scores, fitted
measure.py         every bar that the demo decides
real_questions.py  the language alone, on files of questions that are not part of the project
"""
