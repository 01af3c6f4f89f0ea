"""The words of the synthetic world: 24 interests, each with a vocabulary of its own.

Our choice: plain English words, so that a pretrained text encoder finds the interests and a person can
read a recommendation. Six shelves of four interests each give neighbouring interests something in common.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interest:
    """One planted interest.

    Attributes:
        name: what the planted truth calls it.
        shelf: the broad category it shares with three others.
        adjectives, nouns: together the names of its series, so at least 12 x 12 different ones.
        subjects: what the second half of a title and the descriptions speak of.
        forms: what kind of thing an item is.
    """

    name: str
    shelf: str
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    subjects: tuple[str, ...]
    forms: tuple[str, ...]


# A block an interest: name | shelf, adjectives, nouns, subjects, forms; one line each.
_BLOCKS = """
sea voyages | Travel
Quiet Salt Northern Stormy Distant Drifting Tidal Silver Leeward Sunken Foggy Restless
Harbour Anchor Lighthouse Schooner Reef Compass Mast Lagoon Current Horizon Cove Sail
Sea Ocean Island Captain Whaling Coastline Shipwreck Navigator
Chronicle Voyage Logbook Atlas

mountain climbing | Travel
Frozen High Vertical Granite Thin Windy Alpine Steep Snowbound Lofty Bare Hanging
Summit Ridge Glacier Crevasse Peak Ropeway Basecamp Cornice Couloir Cairn Face Saddle
Mountain Climbing Expedition Avalanche Mountaineer Sherpa Altitude Icefall
Ascent Guide Diary Documentary

railway journeys | Travel
Slow Narrow Overnight Express Smoky Iron Winding Transcontinental Rural Crowded Lonely Punctual
Locomotive Carriage Platform Tunnel Viaduct Signal Junction Timetable Sleeper Whistle Depot Track
Railway Train Station Steam Conductor Railroad Passenger Branchline
Journey Album Portrait Handbook

desert crossings | Travel
Golden Burning Endless Dry Shifting Amber Silent Scorched Nomadic Dusty Moonlit Thirsty
Dune Caravan Oasis Camel Mirage Well Tent Canyon Mesa Sandstorm Saltflat Wadi
Desert Sahara Bedouin Sand Nomad Gobi Drought Pilgrim
Crossing Travelogue Memoir Tale

italian cooking | Kitchen
Rustic Fresh Simmered Sunday Creamy Roman Tuscan Peppery Handmade Family Crispy Sicilian
Basil Tomato Gnocchi Olive Ravioli Oregano Parmesan Trattoria Polenta Risotto Prosciutto Lasagna
Pasta Italian Pizza Sauce Mozzarella Antipasti Focaccia Espresso
Cookbook Recipes Kitchen Menu

bread baking | Kitchen
Crusty Warm Slow Floury Golden Toasted Braided Country Seeded Leavened Oven Soft
Sourdough Loaf Brioche Bagel Starter Rye Baguette Crumb Yeast Ciabatta Pretzel Hearth
Bread Baking Dough Flour Bakery Oven Pastry Kneading
Workshop Primer Method Notebook

tea and coffee | Kitchen
Dark Smooth Bitter Jasmine Roasted Aromatic Brewed Misty Filtered Morning Blended Steaming
Teapot Bean Grinder Oolong Kettle Barista Matcha Cup Roaster Leaf Press Saucer
Tea Coffee Espresso Brewing Caffeine Ceremony Cafe Infusion
Companion Ritual Tasting Manual

barbecue | Kitchen
Smoky Charred Sticky Hickory Spicy Glazed Juicy Grilled Backyard Texan Fiery Rubbed
Brisket Ribs Grill Ember Skewer Smoker Charcoal Marinade Sausage Firepit Steak Drumstick
Barbecue Grilling Meat Smoke Pitmaster Beef Campfire Roast
Feast Playbook Challenge Bible

space exploration | Science
Orbital Lunar Stellar Silent Infinite Solar Deep Martian Weightless Cosmic Radiant Dark
Rocket Probe Nebula Astronaut Comet Satellite Telescope Capsule Lander Crater Orbit Booster
Space Galaxy Planet Moon Mission Universe Astronomy Gravity
Odyssey Mission Briefing Series

dinosaurs | Science
Ancient Giant Feathered Fossil Horned Jurassic Buried Toothed Extinct Armoured Roaming Cretaceous
Raptor Skeleton Footprint Egg Triceratops Claw Amber Skull Stegosaur Hatchling Jaw Quarry
Dinosaur Fossils Prehistory Paleontology Extinction Reptile Excavation Mesozoic
Encyclopedia Museum Discovery Field

human body | Science
Beating Hidden Healthy Nervous Living Immune Breathing Curious Molecular Muscular Sleeping Hungry
Heart Brain Neuron Lung Skeleton Cell Artery Gene Stomach Retina Nerve Vaccine
Medicine Anatomy Health Surgery Disease Doctor Biology Hospital
Casebook Lecture Explained Reader

number puzzles | Science
Prime Infinite Clever Logical Hidden Irrational Perfect Random Elegant Tricky Binary Symmetric
Theorem Matrix Cipher Fraction Sequence Proof Labyrinth Pattern Equation Paradox Grid Polygon
Mathematics Puzzle Number Geometry Algebra Logic Riddle Probability
Puzzles Problems Brainteasers Course

medieval knights | History
Brave Rusted Royal Holy Fallen Loyal Black Besieged Sworn Noble Banished Gallant
Castle Sword Banner Joust Crown Fortress Squire Gauntlet Shield Throne Drawbridge Lance
Knight Kingdom Crusade Siege Medieval Chivalry Feudal Duke
Saga Legend Ballad Epic

ancient egypt | History
Eternal Sacred Lost Gilded Sealed Buried Divine Forgotten Painted Cursed Sunlit Royal
Pyramid Tomb Scarab Papyrus Obelisk Sphinx Sarcophagus Temple Amulet Mummy Scroll Ankh
Egypt Pharaoh Nile Hieroglyph Cleopatra Archaeologist Thebes Dynasty
Secrets Treasures Mystery Inscription

wild west | History
Lonesome Dusty Crooked Wanted Rugged Prairie Midnight Outlawed Broken Red Thundering Reckless
Saloon Sheriff Stagecoach Spur Saddle Revolver Ranch Canyon Lasso Homestead Mustang Bandit
Western Cowboy Frontier Outlaw Gunslinger Cattle Goldrush Rodeo
Showdown Ride Yarn Trail

aviation history | History
Roaring Daring Silver Barnstorming Supersonic First Low Winged Vintage Soaring Twin Fearless
Biplane Propeller Cockpit Hangar Glider Runway Zeppelin Squadron Jet Seaplane Pilot Parachute
Aviation Flight Airplane Aviator Airfield Aerobatics Wright Bomber
Archive Story Flights Annals

jazz | Music
Blue Smooth Midnight Swinging Cool Mellow Syncopated Brassy Late Velvet Restless Golden
Saxophone Trumpet Quartet Bass Ballroom Trio Bebop Drummer Nightclub Clarinet Solo Groove
Jazz Swing Blues Improvisation Bandleader Harlem Orleans Ragtime
Sessions Live Standards Anthology

classical orchestra | Music
Grand Solemn Majestic Pastoral Slow Unfinished Tender Choral Baroque Royal Heroic Autumnal
Symphony Violin Cello Concerto Sonata Overture Maestro Oboe Quartet Requiem Nocturne Fugue
Orchestra Beethoven Mozart Conductor Philharmonic Opera Chamber Baroque
Recital Performance Collection Masterworks

electronic dance | Music
Neon Electric Pulsing Digital Hypnotic Midnight Looping Analog Glitched Acid Euphoric Distorted
Synth Beat Turntable Bassline Mixer Strobe Loop Remix Sampler Dancefloor Sequencer Vinyl
Techno House Electronic Rave DJ Trance Club Ambient
Mix Extended Nights Beats

folk songs | Music
Wandering Old Green Weeping Humble Homespun Wooden Barefoot Rolling Gentle Misty Harvest
Fiddle Banjo Ballad Meadow Mandolin Cabin Lullaby River Hearth Accordion Porch Willow
Folk Acoustic Songs Storyteller Bluegrass Appalachian Celtic Troubadour
Songbook Gathering Tapes Verses

gardening | Home
Blooming Wild Shady Evergreen Sunny Potted Fragrant Tangled Walled Climbing Mossy Budding
Rose Tulip Trellis Greenhouse Orchard Fern Compost Seedling Hedge Lavender Peony Trowel
Gardening Flower Plant Soil Pruning Vegetable Herb Botanical
Almanac Planner Seasons Ideas

woodworking | Home
Carved Oak Sturdy Polished Dovetailed Walnut Handmade Weathered Planed Simple Reclaimed Curved
Chisel Workbench Cabinet Lathe Joint Plank Saw Rocking-Chair Plane Dowel Veneer Mallet
Woodworking Furniture Carpentry Timber Joinery Craftsman Cabinetry Toolmaking
Projects Techniques Plans Bench

knitting | Home
Cozy Woolen Striped Soft Chunky Cabled Nordic Lacy Warm Patchwork Knotted Pastel
Sweater Scarf Needle Mitten Shawl Yarn Blanket Sock Cardigan Stitch Beanie Skein
Knitting Crochet Wool Needlework Textile Weaving Merino Embroidery
Patterns Basics Stitches Workbook

cats and dogs | Home
Playful Loyal Fluffy Sleepy Stray Curious Muddy Purring Naughty Barking Rescued Whiskered
Puppy Kitten Paw Leash Tabby Terrier Collar Spaniel Whisker Retriever Basket Beagle
Dog Cat Pet Veterinarian Breed Obedience Shelter Companion
Training Tails Adventures Care
"""


def _parse(block: str) -> Interest:
    heading, *lists = block.splitlines()
    name, shelf = heading.split(" | ")
    adjectives, nouns, subjects, forms = (tuple(words.split()) for words in lists)
    return Interest(name, shelf, adjectives, nouns, subjects, forms)


INTERESTS: tuple[Interest, ...] = tuple(_parse(block) for block in _BLOCKS.strip().split("\n\n"))
