package idloctest_test
import ("testing";"time";"os"; . "github.com/idloc/idloc/idloc/idloctest")
func TestZZ(t *testing.T){
 lab:=New(t,Seed(1)); lab.Node("earth",DualStack(),Over(hop)); 
 to:=lab.Node("to",DualStack(),Over(hop)); from:=lab.Node("from",DualStack(),Over(hop))
 s:=startStream(t,from,to,80)
 f,_:=os.Create("/tmp/e6/from.pcap"); stop,_:=from.Capture(f)
 g,_:=os.Create("/tmp/e6/to.pcap"); stop2,_:=to.Capture(g)
 <-time.After(100*time.Millisecond)
 t.Log(s.disturb(t,func(){ t.Log(time.Now().Format("05.000")); from.Move(IPv6())}))
 stop(); stop2(); s.end(t); t.Log(from.Status().Drops, to.Status().Drops); for _,p:=range to.Status().Peers { t.Log(p.Name,p.Drops) }; for _,p:=range from.Status().Peers { t.Log(p.Name,p.Drops) }
}
