"""Wine: thirteen chemical measurements of 178 wines, from three growers; which grower was it?

The data: Aeberhard & Forina, UCI Machine Learning Repository, 1991 (CC BY 4.0).
"""
