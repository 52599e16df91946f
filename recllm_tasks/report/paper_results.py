"""The paper's Tables 1-6 and 9, digit by digit as text.

Numbers stay as they are printed ("2e-5", "+5.66"): NDCG and HR are fractions, AUC is per cent.
"Δ" is the best [Ours] over the best baseline, in per cent. In the ablations a row is
"number what": "3 2+retrieval" is row 3, row 2 with the retrieval task added.
"""

import dataclasses
from collections.abc import Mapping

# The parts of Tables 1-3.
CONVENTIONAL = (
    "Caser",
    "HGN",
    "GRU4Rec",
    "BERT4Rec",
    "FDSA",
    "SASRec",
    "S3-Rec",
    "TIGER",
    "BPR-MF",
    "BPR-MLP",
    "SimpleX",
    "History",
    "DMF",
    "Wide&Deep",
)
LANGUAGE_MODELS = ("P5", "P5-XL", "FLAN-T5-Base", "FLAN-T5-XL")
OURS = ("ReAT", "RaAT", "RpAT", "UT", "UT+AT", "UT+IE")
DELTA = "Δ"

_TABLE_1 = {
    "toys": """
Caser         0.0107  0.0141  0.0166  0.0270
HGN           0.0221  0.0277  0.0321  0.0497
GRU4Rec       0.0059  0.0084  0.0097  0.0176
BERT4Rec      0.0071  0.0099  0.0116  0.0203
FDSA          0.0140  0.0189  0.0228  0.0381
SASRec        0.0306  0.0374  0.0463  0.0675
S3-Rec        0.0294  0.0376  0.0443  0.0700
TIGER         0.0371  0.0432  0.0521  0.0712
P5            0.0050  0.0066  0.0070  0.0121
P5-XL         0.0023  0.0031  0.0035  0.0061
FLAN-T5-Base  0.0000    2e-5  0.0000    5e-5
FLAN-T5-XL      2e-5    2e-5    5e-5    5e-5
ReAT          0.0390  0.0461  0.0558  0.0776
UT            0.0166  0.0202  0.0252  0.0362
UT+AT         0.0392  0.0459  0.0563  0.0772
Δ              +5.66   +6.71   +8.06   +8.99
""",
    "beauty": """
Caser         0.0131  0.0176  0.0205  0.0347
HGN           0.0206  0.0266  0.0325  0.0512
GRU4Rec       0.0099  0.0137  0.0164  0.0283
BERT4Rec      0.0124  0.0170  0.0203  0.0347
FDSA          0.0163  0.0208  0.0267  0.0407
SASRec        0.0249  0.0318  0.0387  0.0605
S3-Rec        0.0244  0.0327  0.0387  0.0647
TIGER         0.0321  0.0384  0.0454  0.0648
P5            0.0107  0.0136  0.0163  0.0254
P5-XL         0.0036  0.0050  0.0063  0.0104
FLAN-T5-Base  0.0000  0.0000  0.0000  0.0000
FLAN-T5-XL    0.0000  0.0000  0.0000  0.0000
ReAT          0.0382  0.0442  0.0535  0.0722
UT            0.0188  0.0231  0.0292  0.0425
UT+AT         0.0329  0.0397  0.0482  0.0693
Δ             +19.00  +15.10  +17.84  +11.42
""",
    "sports": """
Caser         0.0072  0.0097  0.0116  0.0194
HGN           0.0120  0.0159  0.0189  0.0313
GRU4Rec       0.0086  0.0110  0.0129  0.0204
BERT4Rec      0.0075  0.0099  0.0115  0.0191
FDSA          0.0122  0.0156  0.0182  0.0288
SASRec        0.0154  0.0192  0.0233  0.0350
S3-Rec        0.0161  0.0204  0.0251  0.0385
TIGER         0.0181  0.0225  0.0264  0.0400
P5            0.0041  0.0052  0.0061  0.0095
P5-XL         0.0029  0.0035  0.0040  0.0060
FLAN-T5-Base  0.0000    9e-6  0.0000    3e-5
FLAN-T5-XL    0.0000  0.0000  0.0000  0.0000
ReAT          0.0188  0.0232  0.0285  0.0422
UT            0.0079  0.0101  0.0118  0.0187
UT+AT         0.0178  0.0219  0.0268  0.0393
Δ              +3.87   +3.11   +7.95   +5.50
""",
}

_TABLE_2 = {
    "toys": """
BPR-MF        0.0641  0.0940  0.0233  0.1066  0.2003
BPR-MLP       0.0688  0.0988  0.0252  0.1142  0.2077
SimpleX       0.1244  0.1469  0.0268  0.1958  0.2662
P5-XL         0.0290  0.0444  0.0097  0.0494  0.0977
FLAN-T5-Base  0.0107  0.0127  0.0057  0.0156  0.0217
FLAN-T5-XL    0.0160  0.0312  0.0026  0.0315  0.0793
RaAT          0.1714  0.2034  0.0956  0.2464  0.3453
UT            0.1536  0.1867  0.0831  0.2233  0.3259
UT+AT         0.1703  0.2064  0.0938  0.2443  0.3562
Δ             +37.78  +40.50 +256.72  +25.84  +33.81
""",
    "beauty": """
BPR-MF        0.0857  0.1224  0.0311  0.1426  0.2573
BPR-MLP       0.0848  0.1215  0.0317  0.1392  0.2542
SimpleX       0.1441  0.1711  0.0325  0.2247  0.3090
P5-XL         0.0298  0.0456  0.0110  0.0498  0.0992
FLAN-T5-Base  0.0097  0.0113  0.0052  0.0137  0.0189
FLAN-T5-XL    0.0152  0.0296  0.0022  0.0301  0.0753
RaAT          0.1376  0.1691  0.0702  0.2036  0.3013
UT            0.1236  0.1537  0.0609  0.1863  0.2798
UT+AT         0.1441  0.1758  0.0742  0.2126  0.3112
Δ               0.00   +2.75 +128.31   -5.38   +0.71
""",
    "sports": """
BPR-MF        0.0848  0.1220  0.0314  0.1404  0.2563
BPR-MLP       0.0927  0.1296  0.0351  0.1520  0.2671
SimpleX       0.1505  0.1800  0.0331  0.2362  0.3290
P5-XL         0.0286  0.0436  0.0097  0.0486  0.0957
FLAN-T5-Base  0.0069  0.0082  0.0035  0.0102  0.0144
FLAN-T5-XL    0.0097  0.0193  0.0014  0.0192  0.0491
RaAT          0.0933  0.1199  0.0424  0.1448  0.2272
UT            0.0867  0.1137  0.0381  0.1362  0.2202
UT+AT         0.0997  0.1281  0.0468  0.1526  0.2404
Δ             -33.75  -28.83  +33.33  -35.39  -26.93
""",
}

_TABLE_3 = {
    "toys": """
History        66.59
DMF            51.82
Wide&Deep      70.93
P5-XL          51.04
FLAN-T5-Base   57.85
FLAN-T5-XL     55.23
RpAT           71.16
UT             70.79
UT+AT          71.08
Δ              +0.32
""",
    "beauty": """
History        64.80
DMF            51.23
Wide&Deep      67.10
P5-XL          50.63
FLAN-T5-Base   56.04
FLAN-T5-XL     53.77
RpAT           68.27
UT             67.45
UT+AT          67.55
Δ              +1.74
""",
    "sports": """
History        62.78
DMF            51.38
Wide&Deep      67.60
P5-XL          50.36
FLAN-T5-Base   55.00
FLAN-T5-XL     52.01
RpAT           65.87
UT             65.35
UT+AT          65.18
Δ              -2.56
""",
}

_TABLE_4 = """
1 TIGER                0.0371 0.0432 0.0521 0.0712
2 FLAN-T5-XL             2e-5   2e-5   5e-5   5e-5
3 2+retrieval          0.0182 0.0219 0.0273 0.0388
4 3+MLM                0.0306 0.0369 0.0443 0.0641
5 4+MIM                0.0390 0.0461 0.0558 0.0776
6 FLAN-T5-Base         0.0000   2e-5 0.0000   5e-5
7 6+retrieval          0.0149 0.0183 0.0219 0.0325
8 7+MLM                0.0219 0.0271 0.0334 0.0495
9 8+MIM                0.0242 0.0304 0.0376 0.0566
"""

_TABLE_5 = """
1 SimpleX              0.1244 0.1469 0.0268 0.1958 0.2662
2 FLAN-T5-XL           0.0160 0.0312 0.0026 0.0315 0.0793
3 2+ranking            0.1520 0.1864 0.0807 0.2218 0.3284
4 3+MLM                0.1580 0.1912 0.0854 0.2303 0.3333
5 4+MIM                0.1677 0.1976 0.0938 0.2391 0.3317
6 5+BPR                0.1714 0.2034 0.0956 0.2464 0.3453
7 FLAN-T5-Base         0.0107 0.0127 0.0057 0.0156 0.0217
8 7+ranking            0.1349 0.1654 0.0720 0.1957 0.2901
9 8+MLM                0.1481 0.1782 0.0820 0.2119 0.3051
10 9+MIM               0.1489 0.1811 0.0817 0.2141 0.3136
11 10+BPR              0.1534 0.1844 0.0844 0.2196 0.3153
"""

_TABLE_6 = """
1 Wide&Deep             70.93
2 FLAN-T5-XL            55.23
3 2+rating-prediction   70.38
4 3+MLM                 71.08
5 4+MIM                 71.16
6 FLAN-T5-Base          57.85
7 6+rating-prediction   69.17
8 7+MLM                 67.31
9 8+MIM                 68.24
"""

_TABLE_9 = """
UT                     0.0079 0.0101 0.0118 0.0187
UT+IE                  0.0076 0.0097 0.0121 0.0185
"""


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """One table: `metrics` are our keys in the order of its columns.

    `numbers` are the printed texts by dataset, row and metric, rows in the paper's order.
    """

    number: int
    title: str
    kind: str
    metrics: tuple[str, ...]
    numbers: Mapping[str, Mapping[str, Mapping[str, str]]]

    def printed(self, dataset: str, row: str, metric: str) -> str:
        """A number as printed, or "" if the paper has none."""
        return self.numbers.get(dataset, {}).get(row, {}).get(metric, "")


_LISTS = ("ndcg@5", "ndcg@10", "hr@5", "hr@10")
_CANDIDATES = ("ndcg@5", "ndcg@10", "hr@1", "hr@5", "hr@10")
_RATING = ("auc",)


def _parsed(metrics: tuple[str, ...], blocks: Mapping[str, str]):
    """Parses lines "<row> <number> …" by dataset; a row's name may contain spaces."""
    numbers = {}
    for dataset, block in blocks.items():
        rows = (line.rsplit(maxsplit=len(metrics)) for line in block.strip().splitlines())
        numbers[dataset] = {name: dict(zip(metrics, texts)) for name, *texts in rows}
    return numbers


def _table(number: int, title: str, kind: str, metrics, blocks) -> PaperTable:
    return PaperTable(number, title, kind, metrics, _parsed(metrics, blocks))


TABLE_1 = _table(1, "Retrieval", "retrieval", _LISTS, _TABLE_1)
TABLE_2 = _table(2, "Ranking", "ranking", _CANDIDATES, _TABLE_2)
TABLE_3 = _table(3, "Rating prediction, AUC (%)", "rating", _RATING, _TABLE_3)
TABLE_4 = _table(4, "Retrieval, ablation", "retrieval", _LISTS, {"toys": _TABLE_4})
TABLE_5 = _table(5, "Ranking, ablation", "ranking", _CANDIDATES, {"toys": _TABLE_5})
TABLE_6 = _table(6, "Rating prediction, ablation, AUC (%)", "rating", _RATING, {"toys": _TABLE_6})
TABLE_9 = _table(9, "Retrieval, UT+IE", "retrieval", _LISTS, {"sports": _TABLE_9})
RESULTS = {table.kind: table for table in (TABLE_1, TABLE_2, TABLE_3)}
ABLATIONS = {table.kind: table for table in (TABLE_4, TABLE_5, TABLE_6)}
