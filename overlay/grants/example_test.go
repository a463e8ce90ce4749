package grants_test

import (
	"fmt"

	"github.com/idloc/idloc/overlay/grants"
)

// A policy is read, asked whether it does what it is meant to, and put in force at one
// member.
func ExampleParse() {
	policy, err := grants.Parse(`
		allow tag:web to open tcp 5432 at tag:db
		allow venus to open tcp 22 at everybody
		expect tag:web may open tcp 5432 at tag:db
		expect tag:web may not open tcp 22 at tag:db
	`, "example.internal")
	if err != nil {
		panic(err)
	}
	fmt.Println("failures:", policy.Failures())

	guard := policy.At(grants.Party{Name: "mars", Tags: []string{"db"}})
	shop := grants.Party{Name: "shop", Tags: []string{"web"}}
	fmt.Println(guard.Allows(shop, grants.TCP, 5432))
	fmt.Println(guard.Allows(shop, grants.TCP, 22))

	_, err = grants.Parse("allow venus to open 22 at mars\nallow venus to open tcp 90-80 at mars\n", "")
	fmt.Println(err)
	// Output:
	// failures: []
	// true
	// false
	// line 1: expected tcp, udp or everything, found "22": write each port with its network, such as "tcp 80"
	// line 2: "90-80" is no range: write "80-90"
}

func ExamplePolicy_Explain() {
	policy, err := grants.Parse(`# Who may do what.

allow venus, tag:web to open tcp 5432 at mars   # the shop
`, "")
	if err != nil {
		panic(err)
	}
	venus, mars := grants.Party{Name: "venus"}, grants.Party{Name: "mars"}
	shop := grants.Party{Name: "shop", Tags: []string{"web"}}
	fmt.Println(policy.Explain(venus, mars, grants.TCP, 5432))
	fmt.Println(policy.Explain(shop, mars, grants.TCP, 5432))
	fmt.Println(policy.Explain(venus, mars, grants.TCP, 22))

	policy = nil
	fmt.Println(policy.Explain(venus, mars, grants.TCP, 22))
	// Output:
	// venus may open tcp 5432 at mars: line 3, "allow venus, tag:web to open tcp 5432 at mars"
	// shop (tag:web) may open tcp 5432 at mars: line 3, "allow venus, tag:web to open tcp 5432 at mars"
	// venus may not open tcp 22 at mars: no rule allows it
	// venus may open tcp 22 at mars: there are no rules
}

func ExamplePolicy_Failures() {
	policy, err := grants.Parse(`allow everybody to open tcp 22 at mars
expect pluto may not open tcp 22 at mars
expect venus may open tcp 22-23 at mars
`, "")
	if err != nil {
		panic(err)
	}
	for _, f := range policy.Failures() {
		fmt.Println(f)
	}
	// Output:
	// line 2, "expect pluto may not open tcp 22 at mars": line 1, "allow everybody to open tcp 22 at mars", allows tcp 22
	// line 3, "expect venus may open tcp 22-23 at mars": no rule allows tcp 23
}

// What becomes of two flows when their rules are taken away.
func ExampleGuard_Keeps() {
	mars := grants.Party{Name: "mars"}
	before, err := grants.Parse("allow venus to open tcp 22 at mars\nallow venus to open tcp 80 at mars, new only", "")
	if err != nil {
		panic(err)
	}
	after, err := grants.Parse("allow pluto to open tcp at mars", "")
	if err != nil {
		panic(err)
	}
	venus := grants.Party{Name: "venus"}
	for _, port := range []uint16{22, 80} {
		g := before.At(mars)
		fmt.Println("opens:", g.Allows(venus, grants.TCP, port))
		keeps := g.Keeps(venus, grants.TCP, port)

		g = after.At(mars)
		if g.Allows(venus, grants.TCP, port) {
			keeps = g.Keeps(venus, grants.TCP, port)
		} else if !keeps {
			fmt.Println(port, "ends")
			continue
		}
		fmt.Println(port, "stays")
	}
	// Output:
	// opens: true
	// 22 ends
	// opens: true
	// 80 stays
}
