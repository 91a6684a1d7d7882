"""Migration: is the new loss the same function as the old one, and if not, why?"""
