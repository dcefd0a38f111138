package injecttoken

import "reflect"

// placeOptions are the options of a transport that say where the token goes.
func placeOptions() map[string]blockOption[Transport] {
	options := make(map[string]blockOption[Transport])
	for _, name := range []string{"header", "query", "basic"} {
		options[name] = blockOption[Transport](transportOptions[name])
	}
	return options
}

// saysWhere says whether it is written where the token goes.
func (t *Transport) saysWhere() bool {
	return len(t.Headers) > 0 || len(t.Query) > 0 || t.Basic != nil
}

// newInjection returns where the token goes: as it is written, else as the
// provider of the source wants it, else where it usually does.
func (t *Transport) newInjection(all map[string]*Source) (*injection, *mistake) {
	places := t
	if !t.saysWhere() {
		var m *mistake
		if places, m = wantedPlaces(t.namedSources(all)); m != nil {
			return nil, m
		}
	}
	return newInjection(places.Headers, places.Query, places.Basic)
}

// wantedPlaces returns where the providers of some sources want the token. A
// transport has one place for all of its requests.
func wantedPlaces(sources map[string]*Source) (*Transport, *mistake) {
	wanted := new(Transport)
	names := sortedNames(sources)
	for i, name := range names {
		own := new(Transport)
		if s := sources[name]; s != nil && s.inject != nil {
			own = s.inject
		}
		if i > 0 && !reflect.DeepEqual(wanted, own) {
			return nil, wrong("header", "the providers of the token sources %s and %s want the token in different places; write here where it goes (header, query or basic), or use a site for each", names[0], name)
		}
		wanted = own
	}
	return wanted, nil
}
